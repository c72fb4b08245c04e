"""The process: the Celery application, its composition root, the embedded hub and the command line."""
