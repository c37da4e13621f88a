"""What a run will ask and cost, before any call."""
