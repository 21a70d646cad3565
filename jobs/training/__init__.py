"""Commands of training: heads, students, and what is made of a trained student."""
