"""Policies and data of pagesim: allocators."""
