"""Pictures of a competition's runs, on one HTML page."""
