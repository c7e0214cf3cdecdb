"""What `vdropkern.shrink` is made of: tracing, what is known of each unit, and cutting."""
