"""Faults on purpose: kills, full disks, edited and damaged files, odd images, two commands at once."""
