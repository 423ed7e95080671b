"""What a run's training looks like: one HTML page, drawn from the records that stages leave."""
