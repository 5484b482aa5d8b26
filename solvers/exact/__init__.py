"""The exact method: narrow the Lagrangian bound and the best choice until they meet."""
