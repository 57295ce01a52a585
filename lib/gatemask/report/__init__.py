"""One HTML page about a competition's runs."""
