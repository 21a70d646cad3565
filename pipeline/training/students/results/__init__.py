"""What a training makes beside the student: metrics, pictures, a model card."""
