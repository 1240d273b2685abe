"""What tasks run in: images that are built once, found again by their content, or used as they are."""
