"""Load tests: plan, arrivals, Locust users, raw samples on disk, statistics, verdict, report.

Must not know the insides of servers.
"""
