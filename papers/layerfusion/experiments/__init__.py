"""What the claims are measured by."""
