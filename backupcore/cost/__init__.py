"""Floor 4: what the targets take and cost, from what the catalog kept: bytes by time, requests, prices.

Here live the public price list, the reckoning of a month and the words for it. Reads the catalog only; opens nothing.
Not here: what comes next month (app/forecasting.py asks the planner and retention, and hands its copies in here).
"""
