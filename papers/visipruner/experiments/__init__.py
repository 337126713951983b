"""What the claims are measured by: each file says what it runs on, and its functions are jobs."""
