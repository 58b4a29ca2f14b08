"""What a request to the server costs."""
