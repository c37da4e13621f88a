"""What is lost, and what is paid twice, when a run is killed."""
