"""The functions of the pack; each folder is one FaaS function and imports only lifl."""
