"""Pages and figures about a competition's runs."""
