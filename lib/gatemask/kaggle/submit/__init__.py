"""Submitting to Kaggle: package, rehearsal, submission, leaderboard."""
