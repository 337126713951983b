"""What the claims are measured by: each file is named after what it runs on, and its functions are jobs."""
