"""Other frameworks, each an extra: delete the folder and the queue still works."""
