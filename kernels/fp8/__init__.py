"""FP8 training recipes in torch: what a tensor is after it was scaled, rounded to 8 bits and scaled back."""
