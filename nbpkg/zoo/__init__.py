"""The model zoo: many small networks, trained together on tasks made from image sets."""
