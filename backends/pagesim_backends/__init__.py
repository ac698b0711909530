"""Backends for pagesim: what a step costs, computed or executed."""
