"""Policies and data of pagesim: catalog."""
