"""A server for trained models: completions as OpenAI's, exact log-probabilities, scores, beams, and a page.

asking.py      what a request may hold (pydantic)
answers.py     what is answered: plain functions from a served model and a request to what JSON can hold
worker.py      one thread a model, in which all that is asked of it takes turns
house.py       the models that are served: loaded on demand, unloaded by least use
door.py        what stands before every route: the key, bounds on bodies, slow clients, counters
description.py /docs, the endpoints and their fields
app.py         the routes (FastAPI)
page/          static files, served at /
"""
