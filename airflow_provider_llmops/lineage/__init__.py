"""Where a registered model version came from: what is noted when it is made, and the answer that is read from that."""
