"""Policies and data of pagesim: workload."""
