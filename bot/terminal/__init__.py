"""What a reader at a terminal sees: progress, plans, reports; and nothing of the libraries beneath."""
