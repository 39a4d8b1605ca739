"""lmlab: from any text to an honest language model, in minutes, on the machine you have."""
