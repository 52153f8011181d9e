"""Processes of this machine that outlive whoever started them: begin, watch and stop them, and keep their logs small."""
