"""What artifacts' files hold, and what half precision is held to."""
