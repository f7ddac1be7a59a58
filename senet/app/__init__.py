"""Floor 6, the app: drop an image, see the prediction and the gates, switch units off."""
