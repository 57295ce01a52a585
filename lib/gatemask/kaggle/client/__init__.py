"""The official kaggle command as typed calls: its process, its API, datasets, and the search for secrets."""
