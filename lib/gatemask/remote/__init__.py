"""A project's generated files in a remote, such as a bucket on S3, with the project folder as the local cache."""
