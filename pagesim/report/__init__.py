"""Policies and data of pagesim: report."""
