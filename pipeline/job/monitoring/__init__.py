"""What a job shows to programs: its log as JSON, its numbers, a call at its end."""
