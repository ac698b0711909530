"""A second simulator, written from the rules alone: slow, naive, and without anything of ``pagesim``."""
