"""A page's worth each of loops that people have, plain PyTorch, with one line of IGA in them."""
