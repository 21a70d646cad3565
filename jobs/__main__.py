"""`python -m jobs annotate job.yaml`: what a Ray job runs."""

from jobs.cli import main

main()
