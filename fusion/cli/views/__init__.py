"""Views: runs, receipts and tables as text or drawn on a terminal."""
