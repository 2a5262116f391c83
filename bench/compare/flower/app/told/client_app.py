"""There must be one; the comparison's clients call Flower's Fleet functions themselves."""

from flwr.clientapp import ClientApp

app = ClientApp()
