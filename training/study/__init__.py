"""The study of the paper and of recipe `fast`: grids of runs, statistics, claims, reports."""
