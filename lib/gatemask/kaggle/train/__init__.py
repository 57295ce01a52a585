"""Training on Kaggle: bundle, push, poll, fetch, resume, campaign."""
