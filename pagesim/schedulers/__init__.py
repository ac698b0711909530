"""Policies and data of pagesim: schedulers."""
