"""Texts and beams, written many tokens a call: a model's step and the choice of a token in one compiled loop.

A call of torch, or of NumPy, takes as long as a small network's whole step; these loops make none. `layout` is what
they share with plain code, `choice_loops` chooses a token, `beam_loops` those of a beam, `panels` multiplies, and
`recurrent_loops`, `convolution_loops` and `transformer_loops` step a network. The plain twin of all is
`decoding/search.py`, which asks the model and the processors token by token.
"""
