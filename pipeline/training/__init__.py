"""Trainings as jobs with exact resume: of heads, and of students."""
