"""A page that shows what a network says of a photograph, on this machine and for this machine."""
