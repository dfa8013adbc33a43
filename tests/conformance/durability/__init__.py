"""What was acknowledged as stable is there after the power has gone."""
