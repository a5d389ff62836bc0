"""What is measured at a frozen policy: gradients, hidden units, and where the variance comes from."""
