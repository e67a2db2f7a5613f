"""What all three kinds of process know: the table, its slots, what is published, who is available."""
