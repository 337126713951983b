"""Records as people read them: tables, one page."""
