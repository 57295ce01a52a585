"""The sections of the report: one module each, with a function that returns its HTML or says what it lacks."""
