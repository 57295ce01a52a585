"""Which two submissions to choose for the private leaderboard."""
