"""Training loops in the manner of public codebases, each adjusted by one line, and their table.

Each loop is an ordinary function that knows PyTorch alone: what it is given as ``IGA`` is
`iga_torch.IGA` with some settings, or leaves the network as it is.
"""
